"""edgecut: split a neural network between an edge device and the cloud, where the cut is cheapest.

    import edgecut
    edge = edgecut.profile("lenet5", threads=1)
    plan = edgecut.plan(edge, edge, link="wifi")

Names are loaded on first use: importing edgecut loads neither torch nor ONNX Runtime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import EdgecutError as EdgecutError
    from .noise_kernels.collection import NoiseCollection as NoiseCollection
    from .noise_kernels.element_noise import ElementNoise as ElementNoise
    from .partitioner.choose import plan as plan
    from .partitioner.link import Link as Link
    from .partitioner.plan import Limits as Limits
    from .partitioner.plan import Plan as Plan
    from .privacy.audit import audit as audit
    from .privacy.audit_settings import AuditSettings as AuditSettings
    from .privacy.audited import Audit as Audit
    from .privacy.learn import learn as learn
    from .privacy.result import Learned as Learned
    from .privacy.retraining.retrain import retrain as retrain
    from .privacy.retraining.settings import RetrainSettings as RetrainSettings
    from .privacy.settings import FitSettings as FitSettings
    from .privacy.settings import Settings as Settings
    from .profiler.calibrate import calibrate as calibrate
    from .profiler.deliver import kit as kit
    from .profiler.doctor import diagnose as diagnose
    from .profiler.profile import PowerModel as PowerModel
    from .profiler.profile import Profile as Profile
    from .profiler.run import profile as profile
    from .reports.html import report as report
    from .runtime.bundle import bundle as bundle
    from .runtime.edge import EdgeSession as EdgeSession
    from .runtime.infer import infer as infer
    from .runtime.manifest import LeakageLimits as LeakageLimits
    from .runtime.measure import measure as measure
    from .runtime.measurement import Measurement as Measurement
    from .runtime.probe import probe as probe
    from .runtime.serve import serve as serve
    from .runtime.verify import verify as verify

_HOMES = {
    "Audit": "privacy.audited",
    "AuditSettings": "privacy.audit_settings",
    "EdgeSession": "runtime.edge",
    "EdgecutError": "errors",
    "ElementNoise": "noise_kernels.element_noise",
    "FitSettings": "privacy.settings",
    "LeakageLimits": "runtime.manifest",
    "Learned": "privacy.result",
    "Limits": "partitioner.plan",
    "Link": "partitioner.link",
    "Measurement": "runtime.measurement",
    "NoiseCollection": "noise_kernels.collection",
    "Plan": "partitioner.plan",
    "PowerModel": "profiler.profile",
    "Profile": "profiler.profile",
    "RetrainSettings": "privacy.retraining.settings",
    "Settings": "privacy.settings",
    "audit": "privacy.audit",
    "bundle": "runtime.bundle",
    "calibrate": "profiler.calibrate",
    "diagnose": "profiler.doctor",
    "infer": "runtime.infer",
    "kit": "profiler.deliver",
    "learn": "privacy.learn",
    "measure": "runtime.measure",
    "plan": "partitioner.choose",
    "probe": "runtime.probe",
    "profile": "profiler.run",
    "report": "reports.html",
    "retrain": "privacy.retraining.retrain",
    "serve": "runtime.serve",
    "verify": "runtime.verify",
}

__all__ = [
    "Audit",
    "AuditSettings",
    "EdgeSession",
    "EdgecutError",
    "ElementNoise",
    "FitSettings",
    "LeakageLimits",
    "Learned",
    "Limits",
    "Link",
    "Measurement",
    "NoiseCollection",
    "Plan",
    "PowerModel",
    "Profile",
    "RetrainSettings",
    "Settings",
    "audit",
    "bundle",
    "calibrate",
    "diagnose",
    "infer",
    "kit",
    "learn",
    "measure",
    "plan",
    "probe",
    "profile",
    "report",
    "retrain",
    "serve",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgecut' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
