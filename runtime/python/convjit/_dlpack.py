"""DLPack, both ways: a view of another library's array, and memory of convjit's for other libraries to view."""

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p, py_object

CPU, CUDA = 1, 2  # of DLDeviceType
FLOAT, BFLOAT = 2, 4  # of DLDataTypeCode
TYPES = {"f32": (FLOAT, 32), "f16": (FLOAT, 16), "bf16": (BFLOAT, 16)}


class Device(ctypes.Structure):
    _fields_ = [("kind", c_int), ("ordinal", c_int32)]


class DataType(ctypes.Structure):
    _fields_ = [("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16)]


class Tensor(ctypes.Structure):
    """DLTensor"""

    _fields_ = [
        ("data", c_void_p),
        ("device", Device),
        ("ndim", c_int32),
        ("dtype", DataType),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class ManagedTensor(ctypes.Structure):
    """DLManagedTensor"""

    _fields_ = [("tensor", Tensor), ("manager", c_void_p), ("deleter", c_void_p)]


_get_pointer = ctypes.PYFUNCTYPE(c_void_p, py_object, c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))
# by address: a capsule that is being destroyed must get no new reference
_get_pointer_at = ctypes.PYFUNCTYPE(c_void_p, c_void_p, c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))
_is_valid_at = ctypes.PYFUNCTYPE(c_int, c_void_p, c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_new_capsule = ctypes.PYFUNCTYPE(py_object, c_void_p, c_char_p, c_void_p)(("PyCapsule_New", ctypes.pythonapi))
NAME = b"dltensor"


class View:
    """An array that has __dlpack__: its address, shape, type and device, for as long as this lives."""

    def __init__(self, array):
        kind, self.ordinal = array.__dlpack_device__()
        self.on_gpu = int(kind) == CUDA
        if int(kind) not in (CPU, CUDA):
            raise TypeError(f"arrays are on the CPU or on a CUDA device, not on DLPack's device {int(kind)}")
        # of a GPU's array: ready for the default stream, on which we launch
        self.capsule = array.__dlpack__(stream=1) if self.on_gpu else array.__dlpack__()
        tensor = ctypes.cast(_get_pointer(self.capsule, NAME), POINTER(ManagedTensor)).contents.tensor
        self.address = (tensor.data or 0) + tensor.byte_offset
        self.shape = tuple(tensor.shape[: tensor.ndim])
        self.strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None
        types = {numbers: name for name, numbers in TYPES.items()}
        self.type = types.get((tensor.dtype.code, tensor.dtype.bits)) if tensor.dtype.lanes == 1 else None

    @property
    def dense(self):
        """Whether the last index runs fastest and there are no gaps."""
        step = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides or ())):
            if size != 1 and stride != step:
                return False
            step *= size
        return True


_exported = {}  # by address of the managed tensor, what must live until its consumer is done


@ctypes.CFUNCTYPE(None, c_void_p)
def _delete(managed):
    _exported.pop(managed, None)


@ctypes.CFUNCTYPE(None, c_void_p)
def _forget(capsule):
    """Destructor of a capsule: one that nobody consumed still has its first name."""
    if _is_valid_at(capsule, NAME):
        _delete(_get_pointer_at(capsule, NAME))


def export(owner, address, shape, math, on_gpu, ordinal):
    """A capsule of a dense array, which keeps `owner` alive as long as the consumer wants."""
    sizes = (c_int64 * len(shape))(*shape)
    code, bits = TYPES[math]
    tensor = Tensor(
        data=address,
        device=Device(CUDA if on_gpu else CPU, ordinal),
        ndim=len(shape),
        dtype=DataType(code, bits, 1),
        shape=ctypes.cast(sizes, POINTER(c_int64)),
    )
    managed = ManagedTensor(tensor=tensor, deleter=ctypes.cast(_delete, c_void_p))
    at = ctypes.addressof(managed)
    _exported[at] = (managed, sizes, owner)
    return _new_capsule(at, NAME, ctypes.cast(_forget, c_void_p))
