"""A trained model as a folder to take along: weights (safetensors), an ONNX graph with its preprocessing inside, facts (JSON) and a model card.

python scripts/export.py run=outputs/densenet_cxr14/2026-01-31_12-00-00.000000 output=exported
"""

from cxr.config import ExportConfig, entry


@entry("export", ExportConfig)
def main(config: ExportConfig) -> None:
    from cxr.run.exporting import export

    export(config)


if __name__ == "__main__":
    main()
