"""OCI images as bases of templates.

::

    library.py        the layers of an image: mapped, pulled, or an equivalent
    reference.py      references of images, and the image map      registries.py   the operator's settings of registries
    importer.py       fetches and unpacks images                   tools.py        the programs that fetch them
    equivalents.py    replaces images of an unreachable registry   installscript.py   installs their programs
    imagerecords.py   records of images in the store
"""
