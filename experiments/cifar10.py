"""Does SEANet-20 reach the published test error on CIFAR-10?

    python experiments/cifar10.py

The recipe is the published one. Cost: 200 epochs of 781 steps of 64 images, which need a GPU. Expected result: the
published run has 4.63 % test error at the last epoch, and 4.30 % at the epoch that is best on the test images. This
code has not repeated that run yet.

--model trains another network. EncapNet is trained by the recipe with which it was published:

    python experiments/cifar10.py --model encapnet_plus
"""

from seanet_jax.commands.train import main

if __name__ == "__main__":
    main(__doc__, dataset="cifar10")
