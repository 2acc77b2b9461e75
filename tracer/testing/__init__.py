"""The test kit for adapters: subclass :class:`AdapterContract`, and pytest runs every rule of the contract.

    from tracer.testing import AdapterContract, Case

    class TestMyAdapter(AdapterContract):
        adapter = MyAdapter
        cases = [Case("dense", model=make, inputs={"x": x}, nodes={"dense": "dense"})]

It imports pytest, as nothing else of tracer does but its plug-in. docs/adapters.md has a whole adapter with its tests.

:func:`tracer.assert_port`, which a port is tested with, can be had from here too.
"""

import pytest

pytest.register_assert_rewrite("tracer.testing.contract", "tracer.testing.files", "tracer.testing.learning")

from tracer.porting import assert_port  # noqa: E402
from tracer.testing.case import Case, CodeFile  # noqa: E402
from tracer.testing.contract import AdapterContract  # noqa: E402

__all__ = ["AdapterContract", "Case", "CodeFile", "assert_port"]
