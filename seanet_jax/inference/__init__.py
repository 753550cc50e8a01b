"""Loads, evaluates, exports and converts trained networks, and classifies image files with them.

``trained.load`` reads the folder of a run or of pretrained weights, and ``classifier.Classifier`` computes scores and
probabilities of images in memory. ``evaluation.evaluate`` measures a run on its test images and writes figures and an
HTML report. ``stablehlo.write`` exports a network, and ``conversion`` converts PyTorch checkpoints.
"""
