"""Tensors that stay with the server for a while, named by what they are."""

from lossserver.front import Context, Front, abort
from losswire.errors import NotServedError


async def put(front: Front, context: Context) -> bytes:
    """One PutTensor."""
    await abort(context, NotServedError("PutTensor is not served yet; send the tensor"))
