.PHONY: check format test

check:           ## what CI runs before the tests
	ruff format --check .
	ruff check .
	mypy
	mypy tests conftest.py examples benchmarks
	lint-imports

format:
	ruff format .
	ruff check --fix .

test:            ## unit, property, golden, examples and doctests
	python -P -m pytest -n 2
