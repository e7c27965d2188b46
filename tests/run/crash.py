"""A run in a process of its own, which a test kills:  python crash.py FOLDER RECIPE ROUNDS [resume]"""

import sys

import torch
from toys import blobs, linear_task

import headway as hw


def main() -> None:
    torch.set_num_threads(1)
    folder, recipe, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    trainer = hw.LocalSGD(lr=0.1, batch_size=4, momentum=0.5)
    algorithm = hw.recipes.recipe(recipe, trainer=trainer, sampler=hw.Uniform(count=3))
    run = hw.Run(
        algorithm,
        blobs(sizes=(7, 12, 5, 9)),
        linear_task(),
        rounds=rounds,
        folder=folder,
        resume=len(sys.argv) > 4,
        checkpoint_every=3,
    )
    for report in run:
        print(report.round, flush=True)


if __name__ == "__main__":
    main()
