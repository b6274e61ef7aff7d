"""The disks of sandboxes: images, disks made ahead, and the space and rates that they may use. All runtimes share them."""
