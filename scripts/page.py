"""A page in your browser to try a trained model on single films. Nothing leaves this machine, and no other can reach it.

python scripts/page.py checkpoint=outputs/densenet_cxr14/2026-01-31_12-00-00.000000
"""

from cxr.config import PageConfig, entry


@entry("page", PageConfig)
def main(config: PageConfig) -> None:
    from cxr.run.page import serve

    serve(config)


if __name__ == "__main__":
    main()
