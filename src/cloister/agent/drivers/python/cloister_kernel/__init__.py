"""The Python kernel's modules. The package has an unlikely name, since ``sys.modules`` holds it beside the modules of cells."""
