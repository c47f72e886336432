from godwit.guests import corpus


def test_there_are_a_thousand_different_sentences_of_one_line_each() -> None:
    sentences = corpus.sentences()
    assert len(sentences) >= 1000
    assert len(set(sentences)) == len(sentences)
    assert all(sentence == sentence.strip() for sentence in sentences)
    assert all(20 <= len(sentence) <= 200 for sentence in sentences)


def test_the_text_is_the_book() -> None:
    assert "'You're nothing but a pack of cards!'" in corpus.sentences()


def test_there_are_forty_different_questions_and_none_is_a_sentence_of_the_corpus() -> None:
    questions = corpus.questions()
    assert len(set(questions)) == 40
    assert not set(questions) & set(corpus.sentences())
