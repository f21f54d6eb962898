"""Answer questions to a trained model over HTTP: `gensar serve`."""
