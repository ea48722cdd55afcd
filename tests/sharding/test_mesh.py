import jax
import pytest
from jax.sharding import AxisType

from rsft_jax.sharding.mesh import check_batch_size, make_mesh

pytestmark = pytest.mark.multi_device


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({}, (8, 1, 1)),
        ({"fsdp": 4}, (2, 4, 1)),
        ({"data": 1, "fsdp": -1, "tensor": 2}, (1, 4, 2)),
        ({"data": 2, "fsdp": 2, "tensor": 2}, (2, 2, 2)),
    ],
)
def test_mesh_gives_the_rest_to_the_free_axis(sizes, shape):
    mesh = make_mesh(**sizes)
    assert tuple(mesh.shape.values()) == shape
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert mesh.axis_types == (AxisType.Auto,) * 3


def test_mesh_takes_the_devices_it_is_given():
    mesh = make_mesh(devices=jax.devices()[:3])
    assert mesh.devices.size == 3


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"fsdp": 3}, r"do not make up 8 devices; a size must be one of \[1, 2, 4, 8\]"),
        ({"data": 4, "fsdp": 1, "tensor": 1}, "do not make up 8 devices"),
        ({"fsdp": 0}, "fsdp must be at least 1, or -1 for the rest, got 0"),
        ({"fsdp": -1}, "only one of the sizes may be -1"),
    ],
)
def test_mesh_refuses_sizes_that_do_not_fit(sizes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(**sizes)


def test_batch_size_that_does_not_divide_names_the_nearest():
    mesh = make_mesh(fsdp=2, tensor=2)
    check_batch_size(mesh, 8)
    with pytest.raises(ValueError, match="multiple of data x fsdp = 4, got 6; nearest: 4 or 8"):
        check_batch_size(mesh, 6)
    with pytest.raises(ValueError, match=r"got 3; nearest: 4$"):
        check_batch_size(mesh, 3)
