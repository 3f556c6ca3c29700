"""Tables, figures and the HTML report; works from the artefacts' value types alone."""
