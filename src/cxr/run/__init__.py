"""The only wiring: seed -> data -> fit -> predict -> evaluate. Every stage lives in its own room; here they meet.

A stage is a function of a configuration: `training.train`, `study.prepare`, `reporting.evaluate`, `reporting.audit_labels`, `trials.torture`, `trials.fuzz`.
Rooms are imported where they are used, so that a mistake in the config or the data answers before torch is loaded, and a report never loads it.
"""


class RunError(ValueError):
    """The study cannot be run as it was asked for."""
