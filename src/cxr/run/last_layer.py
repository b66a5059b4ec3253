"""The last layer of a trained network, made again on the features of all training films."""

import logging
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from cxr.cohort.findings import NIH_FINDINGS
from cxr.data.datamodule import FilmData
from cxr.model.backbone import last_layer
from cxr.model.checkpoint import CheckpointFiles, read_checkpoint
from cxr.model.classifier import load_classifier
from cxr.run.films import features_of
from cxr.stats.ranking import auroc
from cxr.stats.ridge import ridge_logistic

log = logging.getLogger(__name__)


def refit_last_layer(checkpoint: Path, files: CheckpointFiles, data: FilmData, *, c: float, device: torch.device) -> None:
    """Writes the checkpoint again with a last layer that is a ridge regression on the training films' features (Kang et al. 2020, Decoupling representation
    and classifier for long-tailed recognition): trained step by step, it learns the few positives of a rare finding by heart.

    The films are taken as they are and the layer does not start from the old one, so a run that is killed here and gone on with makes the same.
    """
    (rows, targets), (val_rows, val_targets) = data.train_films, data.val_films
    classifier = load_classifier(checkpoint, may_compile=False).eval().to(device)
    features, val_features = features_of(classifier, data.store, rows), features_of(classifier, data.store, val_rows)
    layer, areas = last_layer(classifier.net), []
    assert layer is not None  # set_prevalence has asked for it
    assert layer.bias is not None
    for k, finding in enumerate(tqdm(NIH_FINDINGS, "last layer", unit="finding", disable=None, leave=False)):
        known = ~np.isnan(targets[:, k])
        positive = targets[known, k] == 1
        if positive.all() or not positive.any():
            log.warning("%s stays as it was trained: both a positive and a negative film are needed in train", finding)
            continue
        weights, intercept = ridge_logistic(features[known], positive, c=c)
        with torch.no_grad():
            layer.weight[k] = torch.from_numpy(weights.astype(np.float32)).view_as(layer.weight[k])
            layer.bias[k] = intercept
        if finding in classifier.hparams["monitored"]:
            known = ~np.isnan(val_targets[:, k])
            areas.append(auroc(val_features[known] @ weights, val_targets[known, k] == 1)[0])
    files.save_checkpoint(read_checkpoint(checkpoint) | {"state_dict": classifier.cpu().state_dict()}, checkpoint)
    log.info("The last layer was made again on the features of %d training films: val/auroc_macro %.4f", len(rows), np.mean(areas or [np.nan]))
