"""A simulated shop with German and Japanese texts: its two tables, as another program might write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

#: Product -> (its German and Japanese title, what Germans and Japanese search for).
PRODUCTS = {
    "teapot": ("Teekanne", "急須", "kanne für tee", "お茶の急須"),
    "cup": ("Teetasse", "湯呑み", "tasse", "湯呑み茶碗"),
    "kettle": ("Wasserkocher", "電気ケトル", "wasser kochen", "電気ケトル"),
    "tea": ("Grüner Tee", "緑茶", "grüner tee", "緑茶の葉"),
    "lamp": ("Schreibtischlampe", "デスクライト", "lampe schreibtisch", "勉強机のライト"),
    "chair": ("Bürostuhl", "オフィスチェア", "stuhl fürs büro", "椅子"),
    "desk": ("Schreibtisch", "勉強机", "schreibtisch", "勉強机"),
    "shelf": ("Bücherregal", "本棚", "regal für bücher", "木の本棚"),
    "tent": ("Zelt für zwei Personen", "二人用テント", "zelt", "キャンプのテント"),
    "bag": ("Schlafsack", "寝袋", "schlafsack camping", "寝袋"),
}
ADJECTIVES = {
    "red": ("rot, aus gutem Material und leicht zu reinigen", "赤い色で、丈夫な素材を使っています"),
    "white": ("weiß und schlicht, passt in jede Wohnung", "白くてシンプルなデザインです"),
    "small": ("klein und leicht, auch für unterwegs geeignet", "小さくて軽いので持ち運びに便利です"),
    "large": ("groß und stabil, mit zwei Jahren Garantie", "大きくて安定しており、二年間の保証付きです"),
    "cheap": ("günstig und gut für den Alltag", "安くて毎日の生活に役立ちます"),
}
BRANDS = ("Kaki", "Norr", "Aoba")


def write_two_languages(folder: Path, users: int, seed: int = 0) -> tuple[Path, Path]:
    """Write items.csv, with semicolons, and events.csv, with tabs; return both paths.

    Half of the items and of the users are German, the others Japanese. A user likes two products, clicks recommended
    ones and searches for some, with times in milliseconds and no column that says which is which.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    items = [
        {"sku": f"{language}-{product}-{look}-{brand}", "name": f"{brand} {titles[place]}", "text": ADJECTIVES[look][place], "brand": brand}
        for place, language in enumerate(("de", "ja"))
        for product, titles in PRODUCTS.items()
        for look in ADJECTIVES
        for brand in BRANDS
    ]  # fmt: skip
    rows = []
    for user in range(users):
        place = user % 2
        language = ("de", "ja")[place]
        liked = rng.choice([*PRODUCTS], 2, replace=False)
        look = rng.choice([*ADJECTIVES])
        for step in range(int(rng.integers(8, 16))):
            product = str(rng.choice(liked))
            chosen = look if rng.random() < 0.5 else rng.choice([*ADJECTIVES])
            query = PRODUCTS[product][2 + place] if rng.random() < 0.5 else None
            moment = 1_700_000_000_000 + 86_400_000 * step + int(rng.integers(80_000_000))
            item = f"{language}-{product}-{chosen}-{rng.choice(BRANDS)}"
            rows.append({"customer": f"kunde{user}", "sku": item, "timestamp": moment, "search": query})
    pl.DataFrame(items).write_csv(folder / "items.csv", separator=";")
    pl.DataFrame(rows).write_csv(folder / "events.csv", separator="\t")
    return folder / "items.csv", folder / "events.csv"
