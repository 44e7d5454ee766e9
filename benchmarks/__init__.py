"""Everything that measures fedllm, run from the root of the repository.

- `bench.py` with `rows/` and `peers/`: `make bench`, each cost beside its limit or peer.
- `reproduce/`: `make reproduce`, the figures of the FLoSS thesis.
- `studies/`: single questions, each a script: `python -m benchmarks.studies.NAME`.
- `record.py` and `markers.py` write `results/*.json` and the tables of the documents.
"""
