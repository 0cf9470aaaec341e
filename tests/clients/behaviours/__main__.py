"""What real clients and Kubernetes' conformance suite rely on, asked of the cluster of $KUBECONFIG: one line a claim.

Arguments are parts of claims' texts; without any all are asked. Needs no kubelet. Exits with 1 if anything differs."""

import os
import sys

import admission  # noqa: F401: each module adds its claims
import custom  # noqa: F401
import lists  # noqa: F401
import meta  # noqa: F401
import objects  # noqa: F401
import policy  # noqa: F401
import writes  # noqa: F401
from api import Api, run

sys.exit(1 if run(Api(os.environ["KUBECONFIG"]), sys.argv[1:]) else 0)
