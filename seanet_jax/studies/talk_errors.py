"""The test errors that the SEANet talk (MIND 2019) reports, in percent, by data set and preset.

Each is the error of one run at the epoch whose error on the test images is smallest.
"""

TALK_ERRORS: dict[str, dict[str, float]] = {
    "cifar10": {
        "seanet20": 4.3,
        "resnet20": 8.6,
        "resnet32": 7.68,
        "resnet44": 6.43,
        "resnet56": 6.84,
        "resnet110": 6.34,
        "senet20": 7.17,
        "encapnet": 4.55,
        "encapnet_plus": 3.13,
        "encapnet_plus_plus": 3.10,
    },
    "cifar100": {
        "seanet20": 21.33,
        "resnet20": 32.63,
        "resnet32": 30.2,
        "resnet44": 26.85,
        "resnet56": 26.2,
        "resnet110": 26.67,
        "senet20": 30.45,
        "encapnet": 26.77,
        "encapnet_plus": 24.01,
        "encapnet_plus_plus": 24.18,
    },
}
