"""Training: recurrent networks in PyTorch, exported to ONNX and published with the contract the service will check.

`export_module` does the same for a module that was made elsewhere. It is imported when it is asked for, so that the
package can be found where PyTorch is not installed.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.publish.foreign_module import export_module

__all__ = ["export_module"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from training.publish import foreign_module

        return getattr(foreign_module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
