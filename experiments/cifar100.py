"""Does SEANet-20 reach the talk's error on CIFAR-100? The published recipe.

    python experiments/cifar100.py

Cost: 200 epochs of 781 steps of 64 images: for a GPU. Expected from the published run: 21.57 % test error at the last
epoch, 21.33 % at the best on the test images; not repeated with this code yet. Two CPU cores manage three epochs of the
narrow network, which end at 27.3 % test accuracy:

    python experiments/cifar100.py --model seanet20_narrow --epochs 3
"""

from seanet_jax.commands.train import main

if __name__ == "__main__":
    main(__doc__, dataset="cifar100")
