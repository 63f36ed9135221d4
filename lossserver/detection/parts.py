"""The parts that heads are made of, each in a registry of its own, by MMDetection's names."""

from lossserver.registry import Registry

PRIORS = Registry("prior generator")
CODERS = Registry("box coder")
ASSIGNERS = Registry("assigner")
SAMPLERS = Registry("sampler")
COSTS = Registry("match cost")
CALCULATORS = Registry("overlap calculator")
