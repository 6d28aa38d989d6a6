"""Agents know on which device: engines, roles, actors, training. Imports `evals` and `policies`."""

if __name__ == "agents":  # reached through the root of a checkout, not as a part of tutorloop
    raise ImportError(
        "`import agents` found the folder `agents/` of a tutorloop checkout. Write `import tutorloop.agents`; "
        "or, if you meant the package openai-agents, run from another directory."
    )
