"""Evals know right from wrong: problems, graders, statistics, the embedded world. Imports nothing of ours."""

if __name__ == "evals":  # reached through the root of a checkout, not as a part of tutorloop
    raise ImportError(
        "`import evals` found the folder `evals/` of a tutorloop checkout. Write `import tutorloop.evals`; "
        "or, if you meant another package of that name, run from another directory."
    )
