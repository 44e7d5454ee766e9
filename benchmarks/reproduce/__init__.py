"""The runs, results, figures, claims and tables of the reproduction of the FLoSS thesis."""
