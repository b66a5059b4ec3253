"""How fast is it, beside what people use otherwise and beside what the machine could do at best?

python scripts/benchmark.py stage=prepare images=/path/to/cxr14/images    films decoded and resized
python scripts/benchmark.py stage=loader images=/path/to/cxr14/images     batches for training and evaluation
python scripts/benchmark.py stage=step                                    training, against the same step on a batch that never changes
python scripts/benchmark.py stage=predict images=/path/to/cxr14/images    prediction from files to the table, against the network alone
python scripts/benchmark.py stage=statistics                              AUROC and bootstrap
python scripts/benchmark.py stage=startup                                 --help

All cases of a stage run in turn, in one process, and ratios are taken round by round. `make peers` installs what it compares with.
"""

import sys

from cxr.benchmark.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], __doc__))
