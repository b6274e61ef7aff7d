"""See and use a desktop: open an editor, write into it, and take a picture of the screen.

    cloister template build desktop     # once, by who runs the server
    pip install e2b-desktop
"""

import time

from e2b_desktop import Sandbox

with Sandbox.create(timeout=300) as desktop:
    width, height = desktop.get_screen_size()
    print(f"screen: {width} x {height}")
    desktop.launch("org.xfce.mousepad")
    while not desktop.commands.run("xdotool search --onlyvisible --class mousepad || true").stdout:
        time.sleep(0.5)
    window = desktop.get_application_windows("mousepad")[-1]
    print("window:", desktop.get_window_title(window))
    desktop.left_click(width // 2, height // 2)
    desktop.write("Hello from inside")
    picture = desktop.screenshot()
    with open("screen.png", "wb") as file:
        file.write(picture)
    print(f"saved: screen.png, {len(picture)} bytes")
