"""One call in pieces, both directions at once."""

from lossserver.front import Context, Front, abort
from losswire.errors import NotServedError


async def serve(front: Front, context: Context) -> None:
    """One ComputeLarge."""
    await abort(context, NotServedError("ComputeLarge is not served yet; send Compute"))
