"""Tables, curves, the HTML page."""
