"""The ways to combine models; one file each, and a line in the table."""

from __future__ import annotations

from merge.methods.arcee_fusion import ArceeFusion
from merge.methods.base import REQUIRED, Block, Method, Parameter, Values
from merge.methods.breadcrumbs import Breadcrumbs
from merge.methods.breadcrumbs_ties import BreadcrumbsTies
from merge.methods.dare_linear import DareLinear
from merge.methods.dare_ties import DareTies
from merge.methods.della import Della
from merge.methods.della_linear import DellaLinear
from merge.methods.half_reset import HalfReset
from merge.methods.karcher import Karcher
from merge.methods.linear import Linear
from merge.methods.model_stock import ModelStock
from merge.methods.multislerp import MultiSlerp
from merge.methods.nearswap import NearSwap
from merge.methods.nuslerp import NuSlerp
from merge.methods.on_tensors import merge_tensors
from merge.methods.passthrough import Passthrough
from merge.methods.ram import Ram
from merge.methods.ramplus_tl import RamPlus
from merge.methods.sce import Sce
from merge.methods.slerp import Slerp
from merge.methods.task_arithmetic import TaskArithmetic
from merge.methods.ties import Ties

_ALL: tuple[type[Method], ...] = (
    Linear,
    TaskArithmetic,
    Slerp,
    NuSlerp,
    MultiSlerp,
    Karcher,
    Ties,
    DareLinear,
    DareTies,
    Della,
    DellaLinear,
    Breadcrumbs,
    BreadcrumbsTies,
    ModelStock,
    Sce,
    NearSwap,
    ArceeFusion,
    Ram,
    RamPlus,
    Passthrough,
    HalfReset,
)

METHODS: dict[str, type[Method]] = {method.name: method for method in _ALL}
"""Every method by its name."""

__all__ = ["METHODS", "REQUIRED", "Block", "Method", "Parameter", "Values", "merge_tensors"]
