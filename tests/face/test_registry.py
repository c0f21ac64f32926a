from pathlib import Path

import pytest
import torch

from hallo3.config import FaceConfig
from hallo3.errors import FaceError
from hallo3.face.analyzer import ThumbnailAnalyzer
from hallo3.face.arcface import RECOGNIZER_FILENAME
from hallo3.face.drawn import DrawnFaceAnalyzer
from hallo3.face.mediapipe import TASK_FILENAME, MediaPipeLandmarks
from hallo3.face.photo import PhotographAnalyzer
from hallo3.face.registry import analyze_face, create_analyzer, similarity_to
from hallo3.face.scrfd import DETECTOR_FILENAME
from hallo3.face.selection import FaceChoice
from hallo3.geometry import PixelBox
from hallo3.media.image import read_picture
from support.messages import expect_message


def test_every_space_has_its_analyzer_and_photographs_mediapipe_s_landmarks(tmp_path: Path) -> None:
    for space, expected in (("thumbnail", ThumbnailAnalyzer), ("drawn-face", DrawnFaceAnalyzer)):
        analyzer = create_analyzer(FaceConfig(space=space))
        assert (type(analyzer), analyzer.space) == (expected, space)
    for space, text in (("arcface-glintr100", r"glintr100\.onnx"), ("other", "'drawn-face'")):
        with pytest.raises(FaceError, match=rf"No face analyzer(.|\n)*{text}"):
            create_analyzer(FaceConfig(space=space))
    for name in (DETECTOR_FILENAME, RECOGNIZER_FILENAME, TASK_FILENAME):
        (tmp_path / name).write_bytes(b"not read yet")
    for name, options in ((TASK_FILENAME, {}), ("b", {"landmarks": MediaPipeLandmarks(tmp_path / "b")})):
        analyzer = create_analyzer(FaceConfig(), tmp_path, **options)
        assert isinstance(analyzer, PhotographAnalyzer)
        assert analyzer.landmarks == MediaPipeLandmarks(tmp_path / name)


def test_a_choice_replaces_the_mask_of_any_analyzer() -> None:
    picture, config = torch.rand(3, 100, 100), FaceConfig(space="thumbnail")
    analyzer, box = ThumbnailAnalyzer(config.embedding_dim), PixelBox(20, 20, 60, 60)
    assert bool(analyze_face(picture, analyzer, config, FaceChoice()).mask.all())
    assert float(analyze_face(picture, analyzer, config, FaceChoice(box=box)).mask.sum()) == 48 * 48
    with expect_message("its number is not used"):
        analyze_face(picture, analyzer, config, FaceChoice(index=1))
    with pytest.raises(FaceError, match="number or by its place"):
        analyze_face(picture, analyzer, config, FaceChoice(index=1, box=box))


@pytest.mark.any_message
def test_similarity_is_the_cosine_of_embeddings_or_unknown(samples: Path) -> None:
    analyzer = DrawnFaceAnalyzer(512)
    frame = read_picture(samples / "portrait.png")
    embedding = analyzer.analyze(frame).embedding
    assert similarity_to(embedding, analyzer)(frame) == pytest.approx(1)
    assert similarity_to(embedding, analyzer)(torch.zeros_like(frame)) is None, "no face in it"
    assert similarity_to(embedding, ThumbnailAnalyzer(512))(frame) is None
