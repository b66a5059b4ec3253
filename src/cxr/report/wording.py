"""How names and numbers are written, the same on every page and in every picture."""

from collections.abc import Mapping

NAMES = {
    "train_val": "NIH train and val",
    "nih_val": "NIH val",
    "nih_test": "NIH test",
    "four_findings_validation": "Four findings, validation",
    "four_findings_test": "Four findings, test",
    "all_findings_test": "All findings, test",
    "chexpert_valid": "CheXpert valid",
    "chexpert_val": "CheXpert val",
    "mimic_test": "MIMIC-CXR test",
    "mimic_val": "MIMIC-CXR val",
    "rsna_val": "RSNA val",
    "rsna": "RSNA",
    "tbportal": "TB Portals",
    "Enlarged Cardiomediastinum": "Enlarged Cardiomed.",  # over a panel there is room for no more
}
# one patient who owns more of a finding's positive films than this decides its number
LARGE_SHARE = 0.2
NOTHING, MINUS = "–", "−"


def spell(name: str) -> str:
    """
    >>> spell("Pleural_Thickening"), spell("nih_val")
    ('Pleural Thickening', 'NIH val')
    """
    return NAMES.get(name, name.replace("_", " "))


def spell_set(words: str) -> str:
    """Words with every set that they name by its key as people call it.

    >>> spell_set("nih_val: 4 positive patients")
    'NIH val: 4 positive patients'
    """
    for key, name in NAMES.items():
        words = words.replace(key, name)
    return words


def percent(share: float | None) -> str:
    """
    >>> percent(0.4), percent(0.005), percent(0.00047), percent(None)
    ('40.0 %', '0.50 %', '0.047 %', '–')
    """
    if share is None:
        return NOTHING
    return f"{100 * share:.1f} %" if share >= 0.01 or share == 0 else f"{100 * share:#.2g} %"


def share(estimate: Mapping[str, float] | None) -> str:
    """
    >>> share({"value": 0.1, "lo": 0.0872, "hi": 0.114})
    '10.0 % [8.7, 11.4]'
    """
    return f"{percent(estimate['value'])} [{100 * estimate['lo']:.1f}, {100 * estimate['hi']:.1f}]" if estimate else NOTHING


def interval(estimate: Mapping[str, float]) -> str:
    return f"[{estimate['lo']:.3f}, {estimate['hi']:.3f}]".replace("-", MINUS)


def number(estimate: Mapping[str, float] | None) -> str:
    """
    >>> number({"value": 0.28349, "lo": 0.24, "hi": 0.325}), number(None)
    ('0.283 [0.240, 0.325]', '–')
    """
    return f"{estimate['value']:.3f} {interval(estimate)}".replace("-", MINUS) if estimate else NOTHING


def value_of(estimate: Mapping[str, float] | None) -> str:
    return f"{estimate['value']:.3f}" if estimate else NOTHING


def difference(estimate: Mapping[str, float] | None) -> str:
    """
    >>> difference({"value": 0.0565, "lo": -0.0163, "hi": 0.129})
    '+0.057 [−0.016, +0.129]'
    """
    return "{value:+.3f} [{lo:+.3f}, {hi:+.3f}]".format(**estimate).replace("-", MINUS) if estimate else NOTHING
