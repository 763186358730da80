"""What a data set's own harness puts in front of programs, which its reference solutions rely on."""

from __future__ import annotations

_APPS = """
import collections, fractions, heapq, itertools, math, random, sys, time
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque
from functools import lru_cache
from heapq import *
from itertools import accumulate, combinations, permutations, product
from math import ceil, cos, exp, fabs, floor, gcd, log, log2, sin, sqrt, tan
from typing import List, Tuple
"""

PRELUDES = {"apps": _APPS}  # by `Problem.benchmark`; numpy, which APPS also imports, is not in the sandbox
