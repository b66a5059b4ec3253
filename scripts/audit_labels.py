"""How good the labels themselves are: text-mined ones against radiologists', radiologists against each other. Needs no image, no model and no GPU.

python scripts/audit_labels.py data.root=/path/to/cxr14 data.expert_labels=/path/to/google_expert_labels
python scripts/audit_labels.py data=mini
"""

from cxr.config import AuditConfig, entry


@entry("audit_labels", AuditConfig)
def main(config: AuditConfig) -> None:
    from cxr.run.reporting import audit_labels

    audit_labels(config)


if __name__ == "__main__":
    main()
