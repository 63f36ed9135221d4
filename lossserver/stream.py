"""Many small calls over one stream, answered out of order."""

from lossserver.front import Context, Front, abort
from losswire.errors import NotServedError


async def serve(front: Front, context: Context) -> None:
    """One ComputeStream."""
    await abort(context, NotServedError("ComputeStream is not served yet; send Compute"))
