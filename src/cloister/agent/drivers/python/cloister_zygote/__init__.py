"""The Python zygote's modules. A forked kernel's ``sys.modules`` has none of them."""
