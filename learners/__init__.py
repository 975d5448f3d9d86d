"""GPU-side room: models, objectives, behaviours and the update; the core imports no ray."""
