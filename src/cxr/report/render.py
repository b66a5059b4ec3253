def attribution(e):
    return []


def write_pages(*a):
    pass


def summary(report):
    return str(
        {
            k: (v.get("n_images"), v.get("n_missing_images"), v.get("macro"), {f: r.get("auroc") for f, r in (v["findings"] or {}).items()})
            for k, v in report["reference_sets"].items()
        }
    )
