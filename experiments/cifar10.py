"""Does SEANet-20 reach the talk's error on CIFAR-10? The published recipe.

    python experiments/cifar10.py

Cost: 200 epochs of 781 steps of 64 images: for a GPU. Expected from the published run: 4.63 % test error at the last
epoch, 4.30 % at the best on the test images; not repeated with this code yet. --model trains another network, and
EncapNet by the recipe it was published with:

    python experiments/cifar10.py --model encapnet_plus
"""

from seanet_jax.commands.train import main

if __name__ == "__main__":
    main(__doc__, dataset="cifar10")
