print("SKIPPED: running the KQL; not written yet")
