from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Dtype(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[Dtype]
    DTYPE_BOOL: _ClassVar[Dtype]
    DTYPE_UINT8: _ClassVar[Dtype]
    DTYPE_INT8: _ClassVar[Dtype]
    DTYPE_INT16: _ClassVar[Dtype]
    DTYPE_INT32: _ClassVar[Dtype]
    DTYPE_INT64: _ClassVar[Dtype]
    DTYPE_FLOAT16: _ClassVar[Dtype]
    DTYPE_BFLOAT16: _ClassVar[Dtype]
    DTYPE_FLOAT32: _ClassVar[Dtype]
    DTYPE_FLOAT64: _ClassVar[Dtype]
    DTYPE_BIT: _ClassVar[Dtype]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_HIGH: _ClassVar[Priority]
    PRIORITY_LOW: _ClassVar[Priority]
DTYPE_UNSPECIFIED: Dtype
DTYPE_BOOL: Dtype
DTYPE_UINT8: Dtype
DTYPE_INT8: Dtype
DTYPE_INT16: Dtype
DTYPE_INT32: Dtype
DTYPE_INT64: Dtype
DTYPE_FLOAT16: Dtype
DTYPE_BFLOAT16: Dtype
DTYPE_FLOAT32: Dtype
DTYPE_FLOAT64: Dtype
DTYPE_BIT: Dtype
PRIORITY_UNSPECIFIED: Priority
PRIORITY_HIGH: Priority
PRIORITY_LOW: Priority

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape", "payload", "wire", "scales", "indices", "energy")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    WIRE_FIELD_NUMBER: _ClassVar[int]
    SCALES_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    ENERGY_FIELD_NUMBER: _ClassVar[int]
    dtype: Dtype
    shape: _containers.RepeatedScalarFieldContainer[int]
    payload: int
    wire: Dtype
    scales: int
    indices: int
    energy: float
    def __init__(self, dtype: _Optional[_Union[Dtype, str]] = ..., shape: _Optional[_Iterable[int]] = ..., payload: _Optional[int] = ..., wire: _Optional[_Union[Dtype, str]] = ..., scales: _Optional[int] = ..., indices: _Optional[int] = ..., energy: _Optional[float] = ...) -> None: ...

class Null(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ValueList(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Value]
    def __init__(self, items: _Optional[_Iterable[_Union[Value, _Mapping]]] = ...) -> None: ...

class ValueMap(_message.Message):
    __slots__ = ("entries",)
    class EntriesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.MessageMap[str, Value]
    def __init__(self, entries: _Optional[_Mapping[str, Value]] = ...) -> None: ...

class Value(_message.Message):
    __slots__ = ("null_value", "bool_value", "int_value", "double_value", "string_value", "list_value", "map_value", "tensor_value")
    NULL_VALUE_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT_VALUE_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_VALUE_FIELD_NUMBER: _ClassVar[int]
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    LIST_VALUE_FIELD_NUMBER: _ClassVar[int]
    MAP_VALUE_FIELD_NUMBER: _ClassVar[int]
    TENSOR_VALUE_FIELD_NUMBER: _ClassVar[int]
    null_value: Null
    bool_value: bool
    int_value: int
    double_value: float
    string_value: str
    list_value: ValueList
    map_value: ValueMap
    tensor_value: Tensor
    def __init__(self, null_value: _Optional[_Union[Null, _Mapping]] = ..., bool_value: bool = ..., int_value: _Optional[int] = ..., double_value: _Optional[float] = ..., string_value: _Optional[str] = ..., list_value: _Optional[_Union[ValueList, _Mapping]] = ..., map_value: _Optional[_Union[ValueMap, _Mapping]] = ..., tensor_value: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class ComputeHeader(_message.Message):
    __slots__ = ("config", "inputs", "wrt", "reduction_override", "avg_factor", "grad_output", "state", "priority", "wire_dtype", "grad_keep")
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    WRT_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    AVG_FACTOR_FIELD_NUMBER: _ClassVar[int]
    GRAD_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    WIRE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    GRAD_KEEP_FIELD_NUMBER: _ClassVar[int]
    config: Value
    inputs: _containers.MessageMap[str, Value]
    wrt: _containers.RepeatedScalarFieldContainer[str]
    reduction_override: str
    avg_factor: float
    grad_output: Value
    state: Value
    priority: Priority
    wire_dtype: Dtype
    grad_keep: float
    def __init__(self, config: _Optional[_Union[Value, _Mapping]] = ..., inputs: _Optional[_Mapping[str, Value]] = ..., wrt: _Optional[_Iterable[str]] = ..., reduction_override: _Optional[str] = ..., avg_factor: _Optional[float] = ..., grad_output: _Optional[_Union[Value, _Mapping]] = ..., state: _Optional[_Union[Value, _Mapping]] = ..., priority: _Optional[_Union[Priority, str]] = ..., wire_dtype: _Optional[_Union[Dtype, str]] = ..., grad_keep: _Optional[float] = ...) -> None: ...

class Span(_message.Message):
    __slots__ = ("region", "offset", "bytes")
    REGION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    region: int
    offset: int
    bytes: int
    def __init__(self, region: _Optional[int] = ..., offset: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class Elsewhere(_message.Message):
    __slots__ = ("span", "digest")
    SPAN_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    span: Span
    digest: bytes
    def __init__(self, span: _Optional[_Union[Span, _Mapping]] = ..., digest: _Optional[bytes] = ...) -> None: ...

class ComputeRequest(_message.Message):
    __slots__ = ("header", "payloads", "elsewhere")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    ELSEWHERE_FIELD_NUMBER: _ClassVar[int]
    header: ComputeHeader
    payloads: _containers.RepeatedScalarFieldContainer[bytes]
    elsewhere: _containers.RepeatedCompositeFieldContainer[Elsewhere]
    def __init__(self, header: _Optional[_Union[ComputeHeader, _Mapping]] = ..., payloads: _Optional[_Iterable[bytes]] = ..., elsewhere: _Optional[_Iterable[_Union[Elsewhere, _Mapping]]] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue", "decode", "compute", "encode", "batch", "fused")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_FIELD_NUMBER: _ClassVar[int]
    ENCODE_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    FUSED_FIELD_NUMBER: _ClassVar[int]
    queue: float
    decode: float
    compute: float
    encode: float
    batch: int
    fused: bool
    def __init__(self, queue: _Optional[float] = ..., decode: _Optional[float] = ..., compute: _Optional[float] = ..., encode: _Optional[float] = ..., batch: _Optional[int] = ..., fused: bool = ...) -> None: ...

class ResultHeader(_message.Message):
    __slots__ = ("losses", "grads", "state", "timings", "metrics")
    class LossesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    class GradsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    GRADS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    losses: _containers.MessageMap[str, Value]
    grads: _containers.MessageMap[str, Value]
    state: Value
    timings: Timings
    metrics: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, losses: _Optional[_Mapping[str, Value]] = ..., grads: _Optional[_Mapping[str, Value]] = ..., state: _Optional[_Union[Value, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., metrics: _Optional[_Iterable[str]] = ...) -> None: ...

class ComputeResponse(_message.Message):
    __slots__ = ("header", "payloads", "elsewhere")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    ELSEWHERE_FIELD_NUMBER: _ClassVar[int]
    header: ResultHeader
    payloads: _containers.RepeatedScalarFieldContainer[bytes]
    elsewhere: _containers.RepeatedCompositeFieldContainer[Elsewhere]
    def __init__(self, header: _Optional[_Union[ResultHeader, _Mapping]] = ..., payloads: _Optional[_Iterable[bytes]] = ..., elsewhere: _Optional[_Iterable[_Union[Elsewhere, _Mapping]]] = ...) -> None: ...

class StreamCall(_message.Message):
    __slots__ = ("id", "timeout", "answer", "request")
    ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    id: int
    timeout: float
    answer: Span
    request: ComputeRequest
    def __init__(self, id: _Optional[int] = ..., timeout: _Optional[float] = ..., answer: _Optional[_Union[Span, _Mapping]] = ..., request: _Optional[_Union[ComputeRequest, _Mapping]] = ...) -> None: ...

class CallList(_message.Message):
    __slots__ = ("first", "count", "timeout", "request")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    timeout: float
    request: ComputeRequest
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., timeout: _Optional[float] = ..., request: _Optional[_Union[ComputeRequest, _Mapping]] = ...) -> None: ...

class OpenRegion(_message.Message):
    __slots__ = ("region", "bytes")
    REGION_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    region: int
    bytes: int
    def __init__(self, region: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class ComputeStreamRequest(_message.Message):
    __slots__ = ("calls", "cancelled", "open", "closed", "bypass", "direct", "lists")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    BYPASS_FIELD_NUMBER: _ClassVar[int]
    DIRECT_FIELD_NUMBER: _ClassVar[int]
    LISTS_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[StreamCall]
    cancelled: _containers.RepeatedScalarFieldContainer[int]
    open: _containers.RepeatedCompositeFieldContainer[OpenRegion]
    closed: _containers.RepeatedScalarFieldContainer[int]
    bypass: bool
    direct: bytes
    lists: _containers.RepeatedCompositeFieldContainer[CallList]
    def __init__(self, calls: _Optional[_Iterable[_Union[StreamCall, _Mapping]]] = ..., cancelled: _Optional[_Iterable[int]] = ..., open: _Optional[_Iterable[_Union[OpenRegion, _Mapping]]] = ..., closed: _Optional[_Iterable[int]] = ..., bypass: bool = ..., direct: _Optional[bytes] = ..., lists: _Optional[_Iterable[_Union[CallList, _Mapping]]] = ...) -> None: ...

class StreamAnswer(_message.Message):
    __slots__ = ("id", "response", "status")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    id: int
    response: ComputeResponse
    status: bytes
    def __init__(self, id: _Optional[int] = ..., response: _Optional[_Union[ComputeResponse, _Mapping]] = ..., status: _Optional[bytes] = ...) -> None: ...

class AnswerList(_message.Message):
    __slots__ = ("first", "count", "response")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    response: ComputeResponse
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., response: _Optional[_Union[ComputeResponse, _Mapping]] = ...) -> None: ...

class Region(_message.Message):
    __slots__ = ("region", "name", "status")
    REGION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    region: int
    name: str
    status: bytes
    def __init__(self, region: _Optional[int] = ..., name: _Optional[str] = ..., status: _Optional[bytes] = ...) -> None: ...

class ComputeStreamResponse(_message.Message):
    __slots__ = ("answers", "regions", "bypass", "direct_port", "joined", "takes_lists", "lists")
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    BYPASS_FIELD_NUMBER: _ClassVar[int]
    DIRECT_PORT_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    TAKES_LISTS_FIELD_NUMBER: _ClassVar[int]
    LISTS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[StreamAnswer]
    regions: _containers.RepeatedCompositeFieldContainer[Region]
    bypass: str
    direct_port: int
    joined: bool
    takes_lists: bool
    lists: _containers.RepeatedCompositeFieldContainer[AnswerList]
    def __init__(self, answers: _Optional[_Iterable[_Union[StreamAnswer, _Mapping]]] = ..., regions: _Optional[_Iterable[_Union[Region, _Mapping]]] = ..., bypass: _Optional[str] = ..., direct_port: _Optional[int] = ..., joined: bool = ..., takes_lists: bool = ..., lists: _Optional[_Iterable[_Union[AnswerList, _Mapping]]] = ...) -> None: ...

class Piece(_message.Message):
    __slots__ = ("payload", "offset", "content")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    payload: int
    offset: int
    content: bytes
    def __init__(self, payload: _Optional[int] = ..., offset: _Optional[int] = ..., content: _Optional[bytes] = ...) -> None: ...

class ComputeLargeRequest(_message.Message):
    __slots__ = ("header", "piece", "elsewhere", "direct")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    ELSEWHERE_FIELD_NUMBER: _ClassVar[int]
    DIRECT_FIELD_NUMBER: _ClassVar[int]
    header: ComputeHeader
    piece: Piece
    elsewhere: _containers.RepeatedCompositeFieldContainer[Elsewhere]
    direct: bytes
    def __init__(self, header: _Optional[_Union[ComputeHeader, _Mapping]] = ..., piece: _Optional[_Union[Piece, _Mapping]] = ..., elsewhere: _Optional[_Iterable[_Union[Elsewhere, _Mapping]]] = ..., direct: _Optional[bytes] = ...) -> None: ...

class ComputeLargeResponse(_message.Message):
    __slots__ = ("header", "piece")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    header: ResultHeader
    piece: Piece
    def __init__(self, header: _Optional[_Union[ResultHeader, _Mapping]] = ..., piece: _Optional[_Union[Piece, _Mapping]] = ...) -> None: ...

class PutTensorRequest(_message.Message):
    __slots__ = ("digest", "content")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    content: bytes
    def __init__(self, digest: _Optional[bytes] = ..., content: _Optional[bytes] = ...) -> None: ...

class PutTensorResponse(_message.Message):
    __slots__ = ("held", "ttl")
    HELD_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    held: bool
    ttl: float
    def __init__(self, held: bool = ..., ttl: _Optional[float] = ...) -> None: ...

class ListLossesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListLossesResponse(_message.Message):
    __slots__ = ("losses",)
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    losses: _containers.RepeatedCompositeFieldContainer[LossCard]
    def __init__(self, losses: _Optional[_Iterable[_Union[LossCard, _Mapping]]] = ...) -> None: ...

class LossCard(_message.Message):
    __slots__ = ("name", "summary", "text", "parameters", "inputs", "source", "batchable", "remembers", "outputs")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    BATCHABLE_FIELD_NUMBER: _ClassVar[int]
    REMEMBERS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    summary: str
    text: str
    parameters: _containers.RepeatedCompositeFieldContainer[Parameter]
    inputs: _containers.RepeatedCompositeFieldContainer[Input]
    source: str
    batchable: bool
    remembers: bool
    outputs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., summary: _Optional[str] = ..., text: _Optional[str] = ..., parameters: _Optional[_Iterable[_Union[Parameter, _Mapping]]] = ..., inputs: _Optional[_Iterable[_Union[Input, _Mapping]]] = ..., source: _Optional[str] = ..., batchable: bool = ..., remembers: bool = ..., outputs: _Optional[_Iterable[str]] = ...) -> None: ...

class Parameter(_message.Message):
    __slots__ = ("name", "type", "default", "text")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    default: Value
    text: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., default: _Optional[_Union[Value, _Mapping]] = ..., text: _Optional[str] = ...) -> None: ...

class Input(_message.Message):
    __slots__ = ("name", "text", "required")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FIELD_NUMBER: _ClassVar[int]
    name: str
    text: str
    required: bool
    def __init__(self, name: _Optional[str] = ..., text: _Optional[str] = ..., required: bool = ...) -> None: ...

class GetServerRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerResponse(_message.Message):
    __slots__ = ("version", "devices", "planes", "limits", "direct_port")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    PLANES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    DIRECT_PORT_FIELD_NUMBER: _ClassVar[int]
    version: str
    devices: _containers.RepeatedScalarFieldContainer[str]
    planes: _containers.RepeatedScalarFieldContainer[str]
    limits: Limits
    direct_port: int
    def __init__(self, version: _Optional[str] = ..., devices: _Optional[_Iterable[str]] = ..., planes: _Optional[_Iterable[str]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., direct_port: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_message_bytes", "max_bytes_in_flight", "max_calls_in_flight")
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    MAX_CALLS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    max_message_bytes: int
    max_bytes_in_flight: int
    max_calls_in_flight: int
    def __init__(self, max_message_bytes: _Optional[int] = ..., max_bytes_in_flight: _Optional[int] = ..., max_calls_in_flight: _Optional[int] = ...) -> None: ...
