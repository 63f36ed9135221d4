# The server as an image: CUDA by default, any other build of torch by its index.
#
#   docker build -t lossserver .
#   docker build -t lossserver:cpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
#
# docs/docker.md says how to run it. Nothing here needs BuildKit.

# To pin it: --build-arg BASE=python:3.11-slim@sha256:...
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
# Where torch itself comes from, and only torch. Empty is pip's own index, which has the CUDA build.
ARG TORCH_INDEX=""
WORKDIR /src
# torch and what it needs are gigabytes that a change of our code must not fetch again, so they have
# a layer of their own. The second command adds what torch needs; torch it finds already there.
COPY constraints.txt ./
RUN python -m venv --without-pip /opt/lossserver \
    && pip --python /opt/lossserver install --no-cache-dir --constraint constraints.txt \
        --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch \
    && pip --python /opt/lossserver install --no-cache-dir --constraint constraints.txt torch
COPY . ./
RUN pip --python /opt/lossserver install --no-cache-dir --constraint constraints.txt '.[server]'

FROM ${BASE}
# A name for the number: torch's compiler asks for its user's. Any other number serves as well.
RUN useradd --uid 10001 --user-group --no-create-home --no-log-init \
    --shell /usr/sbin/nologin lossserver
# What makes fused kernels on the CPU (docs/engine.md). COMPILER= leaves it out, and 200 MB: eager
# torch computes then.
ARG COMPILER=g++
RUN if [ -n "$COMPILER" ]; then \
        apt-get update && apt-get install --yes --no-install-recommends "$COMPILER" \
        && rm -rf /var/lib/apt/lists/*; fi
# Where they are kept: the only place that the server writes to.
RUN install --directory --owner 10001 --group 10001 --mode 0700 /var/cache/lossserver
COPY --from=build /opt/lossserver /opt/lossserver
# A container's loopback is its own, so the server must listen on all addresses; -p decides who
# reaches it. The driver's part of CUDA comes from the host, and these are the parts needed.
ENV PATH=/opt/lossserver/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    LOSSSERVER_HOST=0.0.0.0 \
    LOSSSERVER_INSECURE=1 \
    LOSSSERVER_KERNEL_CACHE=/var/cache/lossserver \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
EXPOSE 50051
# 60 s: torch with CUDA takes its time to load from a cold disk.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["lossserver", "health"]
# Both as lists: the server is process 1 and gets SIGTERM itself, with no shell between.
ENTRYPOINT ["lossserver"]
CMD ["serve"]
# Last, so that a new revision copies nothing again.
ARG BASE
ARG REVISION=""
LABEL org.opencontainers.image.title="lossserver" \
      org.opencontainers.image.description="Losses and their gradients over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
