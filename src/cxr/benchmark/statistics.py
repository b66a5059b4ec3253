"""AUROC and its bootstrap, against scikit-learn and torchmetrics, at the sizes of ChestX-ray14."""

import numpy as np
import torch
from torchmetrics.classification import MultilabelAUROC

from cxr.benchmark.command import Settings, missing
from cxr.benchmark.measure import Case, Contest, hold
from cxr.stats.bootstrap import bootstrap, patient_weights
from cxr.stats.ranking import auroc

N_FINDINGS, N_DRAWS, SEED = 14, 2000, 0
# images and patients: the whole data set, the four-findings test set, the official test list
WHOLE, FOUR_FINDINGS, TEST = (112_120, 30_805), (1_962, 860), (25_596, 2_797)


def run_stage(settings: Settings) -> list[dict]:
    torch.set_num_threads(1)
    size = settings.size
    return [
        hold(auroc_contest(max(100, int(WHOLE[0] * size))), settings.rounds),
        *(hold(bootstrap_contest(n_images, n_patients, max(50, int(N_DRAWS * size))), settings.rounds) for n_images, n_patients in (FOUR_FINDINGS, TEST)),
    ]


def made_up(n_images: int, n_patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (N, 14) float32 that know something, targets (N, 14) bool of one to twenty per cent, and the patient of every film."""
    rng = np.random.default_rng(SEED)
    positive = rng.random((n_images, N_FINDINGS)) < np.linspace(0.01, 0.2, N_FINDINGS)
    scores = (rng.normal(size=positive.shape) + positive).astype(np.float32)
    patients = np.concatenate([np.arange(n_patients), rng.integers(n_patients, size=max(0, n_images - n_patients))])[:n_images]
    return scores, positive, patients


def auroc_contest(n_images: int) -> Contest:
    scores, positive, _ = made_up(n_images, n_images)
    probability, target = torch.sigmoid(torch.from_numpy(scores)), torch.from_numpy(positive).long()

    def ours() -> int:
        for finding in range(N_FINDINGS):
            auroc(scores[:, finding], positive[:, finding])
        return 1

    def torchmetrics() -> int:
        metric = MultilabelAUROC(num_labels=N_FINDINGS, average=None, thresholds=None, validate_args=False)
        metric.update(probability, target)
        metric.compute()
        return 1

    cases, notes = [Case("cxr", "ours", ours), Case("torchmetrics, exact", "peer", torchmetrics)], []
    reason = missing("sklearn")
    if not reason:
        from sklearn.metrics import roc_auc_score

        def sklearn() -> int:
            for finding in range(N_FINDINGS):
                roc_auc_score(positive[:, finding], scores[:, finding])
            return 1

        cases.append(Case("scikit-learn", "peer", sklearn))
        error = max(abs(auroc(scores[:, f], positive[:, f])[0] - roc_auc_score(positive[:, f], scores[:, f])) for f in range(N_FINDINGS))
        notes.append(f"Largest difference from scikit-learn: {error:.1e}.")
    return Contest(
        f"Exact AUROC of {N_FINDINGS} findings on {n_images:,} films",
        "evaluations",
        cases,
        [("cxr", case.name) for case in cases[1:]],
        {"scikit-learn": reason} if reason else {},
        notes,
    )


def bootstrap_contest(n_images: int, n_patients: int, n_draws: int) -> Contest:
    scores, positive, patients = made_up(n_images, n_patients)

    def ours() -> int:
        for finding in range(N_FINDINGS):
            bootstrap(auroc, scores[:, finding], positive[:, finding], patients, n_draws=n_draws, seed=SEED)
        return n_draws * N_FINDINGS

    title = f"Patient bootstrap of {N_FINDINGS} AUROCs, {n_draws:,} draws, {n_images:,} films of {n_patients:,} patients"
    if reason := missing("sklearn"):
        return Contest(title, "draws of a finding", [Case("cxr", "ours", ours)], [], {"scikit-learn in a loop": reason})
    films_of: list[np.ndarray] = np.split(np.argsort(patients, kind="stable"), np.cumsum(np.bincount(patients))[:-1])
    n_looped = max(1, round(20_000 / n_images))  # the loop takes minutes: a few of its draws tell its speed
    weights = next(patient_weights(patients, n_draws, SEED))[:n_looped]
    error = loop_error(scores, positive, weights)

    def loop() -> int:
        from sklearn.metrics import roc_auc_score

        rng = np.random.default_rng(SEED)
        for _ in range(n_looped):
            drawn = np.concatenate([films_of[patient] for patient in rng.integers(n_patients, size=n_patients)])
            for finding in range(N_FINDINGS):
                roc_auc_score(positive[drawn, finding], scores[drawn, finding])
        return n_looped * N_FINDINGS

    cases = [Case("cxr", "ours", ours), Case("scikit-learn in a loop", "peer", loop)]
    note = f"The loop is timed over {n_looped} draws. Largest difference of a draw from scikit-learn: {error:.1e}."
    return Contest(title, "draws of a finding", cases, [("cxr", "scikit-learn in a loop")], notes=[note])


def loop_error(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> float:
    """The largest difference between weighting films and repeating them, over some draws and all findings."""
    from sklearn.metrics import roc_auc_score

    worst = 0.0
    for finding in range(N_FINDINGS):
        ours = auroc(scores[:, finding], positive[:, finding], weights)
        for value, weight in zip(ours, weights.astype(int), strict=True):
            drawn = np.repeat(np.arange(len(scores)), weight)
            if 0 < positive[drawn, finding].sum() < len(drawn):
                worst = max(worst, abs(value - roc_auc_score(positive[drawn, finding], scores[drawn, finding])))
    return float(worst)
