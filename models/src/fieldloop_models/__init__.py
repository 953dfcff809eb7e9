"""Model recipes: architecture, windowing, gates, model card."""
