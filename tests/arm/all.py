"""Runs all tests and names each with its result; see `run`."""
import os
import sys
import time
import unittest

# The first lets the engine begin with what most others look at.
MODULES = ["test_snapshots", "test_types", "test_template", "test_identity", "test_workspace", "test_package",
           "test_cheap", "test_sources", "test_app", "test_order", "test_refused", "test_faults", "test_checkov",
           "test_wizard", "test_upgrade", "test_tenants", "test_deploy", "test_deploy_all"]


class Results(unittest.TestResult):
    passed = 0

    def addSuccess(self, test):
        self.passed += 1
        print(f"PASS {name(test)}")

    def addSkip(self, test, reason):
        print(f"SKIPPED: {name(test)}; {reason}")

    def addFailure(self, test, error):
        super().addFailure(test, error)
        print(f"FAIL {name(test)}\n{self.failures[-1][1]}")

    def addError(self, test, error):
        super().addError(test, error)
        print(f"FAIL {name(test)}\n{self.errors[-1][1]}")

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error:
            print(f"FAIL {name(subtest)}\n{(self.failures + self.errors)[-1][1]}")


def name(test):
    return test.id().replace("_", " ")


def main():
    if "--update" in sys.argv[1:]:
        os.environ["UPDATE_SNAPSHOTS"] = "1"
    start, result = time.monotonic(), Results()
    unittest.defaultTestLoader.loadTestsFromNames(MODULES).run(result)
    failed = len(result.failures) + len(result.errors)
    print(f"in {time.monotonic() - start:.1f} s")
    print(f"{result.passed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
