"""Holds homes/kubernetes to the schemas of Kubernetes, where no unknown field is allowed, of the versions below,
and to what its restricted Pod Security Standard asks of a pod.
"""
import copy
import sys
import traceback
from pathlib import Path

import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
FILE = ROOT / "homes/kubernetes/cronjob.yaml"
# `timeZone` is stable since 1.27; the other is the newest that the library has.
VERSIONS = ["1.27", "1.37"]


def cron_job():
    [document] = yaml.safe_load_all(FILE.read_text(encoding="utf-8"))
    return document


def pod(document):
    return document["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def the_example_is_valid():
    for version in VERSIONS:
        kubernetes_validate.validate(cron_job(), version, strict=True)


def a_wrong_one_is_refused():
    """Else the check above would show nothing."""
    for change in [lambda one: pod(one).update(automountServiceAccountTokens=False),
                   lambda one: one["spec"].update(concurrencyPolicy=True),
                   lambda one: pod(one)["containers"][0].pop("name")]:
        wrong = copy.deepcopy(cron_job())
        change(wrong)
        try:
            kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)
        except kubernetes_validate.ValidationError:
            continue
        raise AssertionError(f"{wrong} is taken")


def the_pod_is_restricted():
    spec = pod(cron_job())
    [container] = spec["containers"]
    user, of_container = spec["securityContext"], container["securityContext"]
    assert user["runAsNonRoot"] and user["runAsUser"] == 65532, user
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}, user
    assert of_container == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
                            "readOnlyRootFilesystem": True}, of_container
    assert spec["automountServiceAccountToken"] is False
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        assert key not in spec, key
    [volume] = spec["volumes"]
    # The image's user reads the secrets by its group, and nobody else does.
    assert volume["secret"]["defaultMode"] == 0o440 and user["fsGroup"] == 65532, volume


def main():
    failed = 0
    for check in [the_example_is_valid, a_wrong_one_is_refused, the_pod_is_restricted]:
        name = check.__name__.replace("_", " ")
        try:
            check()
            print(f"ok {name}")
        except Exception:  # any of them fails this check, not the next
            failed += 1
            print(f"FAIL {name}\n{traceback.format_exc()}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
