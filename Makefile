# Everything starts here; the only needs are make and Python >= 3.11. See `make help`.
.DEFAULT_GOAL := help
.PHONY: help course lab test build checkpoints lock environment
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS := 1

help:
	@echo "make course       run every notebook; executed copies and an index of all figures go to runs/course"
	@echo "make lab          open the notebooks in JupyterLab"
	@echo "make test         run all checks, the notebooks included"
	@echo "make build        rebuild the notebooks whose source has changed, and the student build"
	@echo "make checkpoints  train the shipped models from scratch: minutes on one GPU, a few hours on a CPU"
	@echo "make lock         choose exact versions anew (needs uv)"
	@echo
	@echo "The first of them creates .venv with the versions of requirements.lock; use another Python with"
	@echo "make course PYTHON=/path/to/python3"

course: environment
	$(BIN)/python -m minirestore course run

lab: environment
	$(BIN)/jupyter lab notebooks

test: environment
	$(BIN)/python -m pytest -n 2 --dist loadfile --nbval --nbval-current-env

build: environment
	$(BIN)/python -m minirestore course build --student

environment:
	@$(PYTHON) .ci/environment.py

# Every line goes on where it stopped; TRAIN="--minutes 5" limits each.
checkpoints: environment
	$(BIN)/minirestore train denoiser --output runs/denoiser $(TRAIN)
	$(BIN)/minirestore train denoiser --set objective=regression --output runs/denoiser_regressor $(TRAIN)
	$(BIN)/minirestore train features --output runs/features $(TRAIN)
	$(BIN)/minirestore train structure_guidance --output runs/structure_guidance $(TRAIN)
	$(BIN)/minirestore train structure_guidance --set guided=False --set steps=12000 \
	    --output runs/structure_guidance_unguided $(TRAIN)
	$(BIN)/minirestore train structure_guidance --set objective=regression --set steps=12000 \
	    --output runs/structure_guidance_regressor $(TRAIN)
	$(BIN)/minirestore train c2f_dft --output runs/c2f_dft_coarse $(TRAIN)
	$(BIN)/minirestore train c2f_dft --set stage=fine --start runs/c2f_dft_coarse/c2f_dft.safetensors \
	    --output runs/c2f_dft $(TRAIN)
	$(BIN)/minirestore train c2f_dft --set task=denoise --set steps=6000 --output runs/c2f_dft_denoise_coarse $(TRAIN)
	$(BIN)/minirestore train c2f_dft --set task=denoise --set stage=fine --set steps=2000 \
	    --start runs/c2f_dft_denoise_coarse/c2f_dft.safetensors --output runs/c2f_dft_denoise $(TRAIN)
	$(BIN)/minirestore train c2f_dft --set task=deblur --set steps=6000 --output runs/c2f_dft_deblur_coarse $(TRAIN)
	$(BIN)/minirestore train c2f_dft --set task=deblur --set stage=fine --set steps=2000 \
	    --start runs/c2f_dft_deblur_coarse/c2f_dft.safetensors --output runs/c2f_dft_deblur $(TRAIN)
	$(BIN)/minirestore train autoencoder --set recolour=1.0 --set chroma_weight=24 --set steps=10000 \
	    --set learning_rate=0.0015 --output runs/autoencoder_colours $(TRAIN)
	$(BIN)/minirestore train autoencoder --set steps=5000 --start runs/autoencoder_colours \
	    --output runs/autoencoder_detail $(TRAIN)
	$(BIN)/minirestore train autoencoder --set steps=5000 --start runs/autoencoder_detail \
	    --output runs/autoencoder_more $(TRAIN)
	$(BIN)/minirestore train autoencoder --start runs/autoencoder_more/autoencoder --output runs/autoencoder $(TRAIN)
	$(BIN)/minirestore train prior --set autoencoder=runs/autoencoder/autoencoder --output runs/prior $(TRAIN)
	$(BIN)/minirestore train vq --set codebook_start=0 --set steps=2500 --start runs/autoencoder/autoencoder \
	    --output runs/vq $(TRAIN)
	$(BIN)/minirestore train resshift --set autoencoder=runs/vq/vq --output runs/resshift $(TRAIN)
	$(BIN)/minirestore train resshift --set stage=student --set autoencoder=runs/vq/vq \
	    --set teacher=runs/resshift/resshift.safetensors --start runs/resshift/resshift.safetensors \
	    --output runs/resshift_student $(TRAIN)
	$(BIN)/minirestore train hf_error_map --set autoencoder=runs/vq/vq \
	    --set teacher=runs/resshift/resshift.safetensors --start runs/resshift_student/resshift.safetensors \
	    --output runs/hf_error_map $(TRAIN)
	$(BIN)/minirestore train diffbir_restoration --output runs/diffbir_restoration $(TRAIN)
	$(BIN)/minirestore train diffbir_restoration --set pipeline=second_order_small \
	    --output runs/diffbir_restoration_sharp $(TRAIN)
	$(BIN)/minirestore train diffbir_restoration --set pipeline=second_order_small --set "depth_of_field=(1.0, 6.0)" \
	    --set steps=3500 --set learning_rate=0.0007 --start runs/diffbir_restoration_sharp/diffbir_restoration.safetensors \
	    --output runs/diffbir_restoration_second $(TRAIN)
	$(BIN)/minirestore train diffbir --set prior=runs/prior/prior \
	    --set restoration=runs/diffbir_restoration/diffbir_restoration.safetensors --output runs/diffbir $(TRAIN)
	$(BIN)/minirestore train depthmaster --set prior=runs/prior/prior --output runs/depthmaster_stage1 $(TRAIN)
	$(BIN)/minirestore train depthmaster --set stage=second --set prior=runs/prior/prior \
	    --start runs/depthmaster_stage1/depthmaster.safetensors --output runs/depthmaster $(TRAIN)

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate \
	    --extra course --extra lpips --extra full --extra dev --extra docs pyproject.toml -o requirements.lock
