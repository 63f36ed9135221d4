"""The one table of element types, read both ways."""

from typing import Final, NamedTuple

from losswire.v1 import loss_pb2 as pb


class Row(NamedTuple):
    """What the wire calls an element type, and its bytes."""

    wire: pb.Dtype
    itemsize: int


#: Every element type that can travel. NumPy's own name of each is the key, and `bfloat16` is what
#: the ml_dtypes package calls the one that NumPy lacks.
DTYPES: dict[str, Row] = {
    "bool": Row(pb.DTYPE_BOOL, 1),
    "uint8": Row(pb.DTYPE_UINT8, 1),
    "int8": Row(pb.DTYPE_INT8, 1),
    "int16": Row(pb.DTYPE_INT16, 2),
    "int32": Row(pb.DTYPE_INT32, 4),
    "int64": Row(pb.DTYPE_INT64, 8),
    "float16": Row(pb.DTYPE_FLOAT16, 2),
    "bfloat16": Row(pb.DTYPE_BFLOAT16, 2),
    "float32": Row(pb.DTYPE_FLOAT32, 4),
    "float64": Row(pb.DTYPE_FLOAT64, 8),
}

#: What the wire calls them, and what only a narrow tensor is written in; and the other way round.
WIRE_OF: Final = {name: row.wire for name, row in DTYPES.items()} | {"bit": pb.DTYPE_BIT}
NAME_OF: Final = {wire: name for name, wire in WIRE_OF.items()}

FLOATS: Final = ("float32", "float64")
HALVES: Final = ("float16", "bfloat16")
INTEGERS: Final = ("uint8", "int8", "int16", "int32", "int64")

#: What a tensor may be written in besides its own dtype; a float as int8 has scales.
NARROWER: dict[str, tuple[str, ...]] = {
    "bool": ("bit",),
    **dict.fromkeys(FLOATS, (*HALVES, "int8")),
    **{
        name: ("bit", *(n for n in INTEGERS if DTYPES[n].itemsize < DTYPES[name].itemsize))
        for name in INTEGERS
    },
}
