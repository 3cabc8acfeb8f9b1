# make demo   teacher, student, ONNX and report on rendered glyphs, in 4 to 5 minutes on 2 cores
# make test   the whole test suite, under 10 minutes on 2 cores
# make lint   ruff and mypy
# make docs   the documentation site, in build/site
# make test-install   the wheel in an environment of its own, with what a device needs
# make test-ecosystem teachers and frames of libraries that the tests' own environment lacks, such as transformers and
#                     open_clip; the hub folder in transformers, sentence-transformers, fastembed and, with Node,
#                     transformers.js; with Chromium too, the page of demo-web; embed on Ray; OpenVINO, the server of
#                     examples/, and vector stores
# make test-litert    files for LiteRT, in an environment of its own (5 GB)
# make test-oldest    the core of the suite with the lowest versions that pyproject.toml allows
PYTHON ?= python3
VENV := .venv
DEMO := runs/quickstart

OLDEST := .venv-oldest
ECOSYSTEM := .venv-ecosystem
LITERT := .venv-litert

.PHONY: demo test lint docs test-install test-oldest test-ecosystem test-litert clean

demo: $(VENV)/installed
	@echo "Environment: $(VENV), installed $$(date -r $(VENV)/installed '+%F %T')"
	$(VENV)/bin/compressor run configs/quickstart.yaml --out $(DEMO)

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python -m mkdocs build --strict --quiet
	@echo "Documentation: build/site/index.html"

test-install: $(VENV)/installed
	INSTALL_WHEEL=1 $(VENV)/bin/python -m pytest tests/test_packaging.py

# Without the tests of documents and benchmarks. uv chooses the versions; pip installs them.
test-oldest: $(OLDEST)/installed
	$(OLDEST)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal \
		tests/zoo tests/compressor tests/export tests/test_packaging.py tests/test_names.py

$(OLDEST)/installed: pyproject.toml
	$(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet uv
	$(OLDEST)/bin/uv pip compile --quiet --resolution lowest-direct --extra train --extra test pyproject.toml \
		--output-file $(OLDEST)/requirements.txt
	$(OLDEST)/bin/python -m pip install --quiet --requirement $(OLDEST)/requirements.txt
	$(OLDEST)/bin/python -m pip install --quiet --no-deps --config-settings editable_mode=compat --editable .
	touch $@

# One environment for all; made anew when what is installed changes. The repository itself is put on the path (compat), so
# that a folder called export where one works, as every run has, does not hide the package.
$(VENV)/installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (torch and its libraries: some minutes and 6 GB the first time)"
	$(VENV)/bin/python -c 'import pip, sys; assert sys.version_info >= (3, 11)' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --config-settings editable_mode=compat \
		--editable '.[train,test,lint,docs]'
	touch $@

# Over the tests' own environment, so that torch is not installed twice. Without npm, JavaScript is skipped.
test-ecosystem: $(ECOSYSTEM)/installed
	NODE_MODULES="$$(test -d $(ECOSYSTEM)/node_modules && echo $(CURDIR)/$(ECOSYSTEM)/node_modules)" \
		$(ECOSYSTEM)/bin/python -m pytest tests/ecosystem tests/export/parity tests/zoo/teachers/families \
		tests/zoo/data/sources tests/export/embedding tests/test_examples.py tests/export/index/test_exporting.py \
		tests/zoo/teachers/runtimes

$(ECOSYSTEM)/installed: tests/ecosystem/constraints.txt tests/ecosystem/package.json $(VENV)/installed
	$(VENV)/bin/python -m venv --clear $(ECOSYSTEM)
	$(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(ECOSYSTEM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tests.pth"
	$(ECOSYSTEM)/bin/python -m pip install --quiet --constraint tests/ecosystem/constraints.txt \
		transformers sentence-transformers open_clip_torch fastembed polars openvino fastapi uvicorn httpx 'ray[data]' \
		usearch qdrant-client lancedb duckdb
	cp tests/ecosystem/package.json $(ECOSYSTEM)
	if command -v npm > /dev/null; then npm install --prefix $(ECOSYSTEM) --ignore-scripts --no-audit --silent; fi
	touch $@

# litert-torch wants an earlier torch than the tests' own environment has; that one's other packages serve.
test-litert: $(LITERT)/installed
	$(LITERT)/bin/python -m pytest tests/export/litert tests/zoo/teachers/runtimes

$(LITERT)/installed: tests/ecosystem/constraints-litert.txt $(VENV)/installed
	$(VENV)/bin/python -m venv --clear $(LITERT)
	$(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(LITERT)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tests.pth"
	$(LITERT)/bin/python -m pip install --quiet --constraint tests/ecosystem/constraints-litert.txt \
		litert-torch torch torchvision mediapipe
	touch $@

# The environment and what the demo made; models of one's own stay.
clean:
	rm -rf $(VENV) $(OLDEST) $(ECOSYSTEM) $(LITERT) $(DEMO)
