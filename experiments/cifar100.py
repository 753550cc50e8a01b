"""Does SEANet-20 reach the published test error on CIFAR-100?

    python experiments/cifar100.py

The recipe is the published one. Cost: 200 epochs of 781 steps of 64 images, which need a GPU. Expected result: the
published run has 21.57 % test error at the last epoch, and 21.33 % at the epoch that is best on the test images. This
code has not repeated that run yet.

Two CPU cores can train the narrow network for three epochs, which gives 27.3 % test accuracy:

    python experiments/cifar100.py --model seanet20_narrow --epochs 3
"""

from seanet_jax.commands.train import main

if __name__ == "__main__":
    main(__doc__, dataset="cifar100")
