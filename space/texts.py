"""What the page says, and what it does in the browser beyond stage.js and strip.js."""

import re

PAPER = (
    "https://openaccess.thecvf.com/content/CVPR2023/html/"
    "Singh_Polynomial_Implicit_Neural_Representations_for_Large_Diverse_Datasets_CVPR_2023_paper.html"
)
HEAD = """# Poly-INR
Every picture here is a polynomial of its pixel coordinates. Tap one, and look as closely as you like."""
ABOUT = f"""A network turns a class and a seed into the coefficients of a polynomial in (row, column). The picture *is*
that polynomial: it has no pixels of its own, can be drawn at any size, and goes on beyond its border.

[Paper]({PAPER}) (Rajhans Singh, Ankita Shukla and Pavan Turaga, CVPR 2023) ·
[Their code](https://github.com/Rajhans0/Poly_INR)"""
CODE = " · [Code of this page](https://huggingface.co/spaces/{space}/tree/main)"
CARD_PICTURES = re.compile(r"!\[[^]]*\]\([^)]*\)")  # which lie beside the card
SELECT_ON_FOCUS = """() => {
    // Typing replaces the class that is there.
    document.addEventListener("focusin", event => {
        if (event.target.matches("#class_label input, #second_class_label input")) event.target.select();
    });
    document.querySelector("#link textarea").ariaLabel = "Link to what you see";  // Gradio's names the copy button
}"""
SHOW_LINK = """query => {
    if (document.body.dataset.view !== "subject" || !query) return query;
    const url = new URL(query, location.href);
    history.replaceState(null, "", url);
    return url.href;
}"""
SHOW_WALL = """() => {
    document.body.dataset.view = "wall";
    history.pushState(null, "", location.pathname);
    scrollTo(0, 0);
}"""
