def draw(folder, report, predictions, references, *, metrics_csv):
    return {}
